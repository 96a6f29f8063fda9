"""Common words by which text/sides recognizes the language of a text, without its words for sides."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ENGLISH = _words(
    """a about above across after again against all along already also although always am among an and another any anyone
    anything are area around as asked at away back background be because been before being below beneath beside besides best
    better between beyond big bigger biggest blurry both bottom but by can cannot center centre class clear close closer
    closest could d dark darker did different do does doesn doing don done down each either else empty end enough entire etc
    even every everything except face facing far farther farthest few fifth find first five fly focus for foreground four
    fourth from front full further furthest get giant give go going got half has have having he her here hers herself high
    higher highest him himself his how i identify if image in inside into is isn it its itself just kind large larger
    largest last later least less let light lighter like little ll located long longer look looking low lower lowest m made
    main make many may me mid middle might mine more most mostly much must my near nearer nearest nearly need next no nobody
    none nor not nothing now number object objects of off old older on once one ones only onto open or other others our out
    outer outside over own part parts partial partially people photo picture piece place please portion pretty quite rather
    re really related s same scene second see seen segment segmentation several shall she short shorter should show shown
    shows side similar since single six size slightly small smaller smallest so some someone something somewhat still such
    sure t tall taller tallest than that the their them themselves then there these they thing things third this those
    though three through thru tiny to together too top toward towards two under underneath until up upon upper upright us
    use used using ve very visible was wasn way we well were what when where whether which while who whole whom whose why
    will with within without word words would yes yet you young younger youngest your beige black blond blonde blue bright
    brown brunette checkered clean color colored colors colour coloured colours cream cyan dirty dotted fat floral gold
    golden gray green grey lavender magenta maroon metallic multi navy neon olive orange pale pink plaid plain purple red
    redhead round scarlet shiny silver skinny square striped stripes tan teal thick thin transparent turquoise violet white
    wide yellow adult african american angry asian athlete audience baby bald batter bearded biker boarder body boy bride
    brother bush catcher chef child children cop couple cow crowd curly cyclist dad daddy daughter doctor dressed driver
    dude face family fan father female fellow foot feet friend gentleman girl girls glasses goalie granny grandma grandpa
    groom group guy guys hair hairy hand hands hat head heads helmet human indian kid kids lady leader lean leg legs male
    man men mom mommy mother mouth neck nose officer old palm parent passenger person pitcher player players pilot police
    policeman referee rider runner shoulder sister skateboarder skater skier smiling snowboarder soldier someone son
    spectator standing student surfer teacher team teen teenager tennis toddler toe umpire waiter waitress wife woman women
    worker apron backpack bag bandana baseball belt bikini blazer blouse boot boots bow bra bracelet button cap cape cloth
    clothes clothing coat collar costume denim dress earring elbow finger glove goatee goggles gown hood hoodie jacket jean
    jeans jersey khaki kimono knee lens lip loafer mask mitt mustache necklace outfit overall pajama pant pants pocket polo
    ponytail purse ring robe sandal scarf shirt shoe shoes short shorts sleeve sleeves slipper sneaker sock stocking suit
    suitcase sunglasses sweater sweatshirt swimsuit tank tee tie top trouser trunks tshirt turban tuxedo umbrella underwear
    uniform veil vest watch wig act added arm asleep attached balance bend bending bent bite biting block blocked board
    break bring broken brush build built buy call carry carrying cast catch catching cause chase chew climb come comes cook
    cooked cool cover covered cross crossed crouch cry cut cutting dance depict describe describing dine display dive drag
    draw drink drinking drive driving drop eat eating enjoy enter face fall feed feeding fell fight fill fit flip float
    flying fold follow form frown gather getting giving goes graze grazing grip grow hang hanging happy hear held help
    hidden hide hiding hit hitting hold holding holds hug jump jumping keep kept kick kneel kneeling know laid laugh lay
    laying lead lean leaning leap lick lie lift listen live load loose lying match mean meet melt mix move moving name
    obscured observe overlap overlapping own paint park parked parking pass pet pick play playing plays point pointing pose
    posing pour pull push put raise raised reach read ready refer reflect reflected rest riding ride roll run running sail
    say says scratch serve serving set shake shape share sit sits sitting skate ski slide sleep sleeping slice smile spread
    squat stack stand stands stare stick stop stopped stretch surf swim swing swinging take taken taking talk talking taste
    tell think throw throwing tied tilt touch travel try turn turned wait walk walking wall want wash watching wave wear
    wearing wears wet wipe work worn write aeroplane air aircraft airplane airport alley animal ant ape apparel appliance
    apple arcade arch armchair art artichoke asparagus avocado awning bacon bagel ball balcony balloon banana bananas band
    banner bar barn barrel base basin basket basketball bat bath bathroom bathtub beach bead beak bean bear bed bedroom bee
    beef beer bell bench berry bicycle bike bin binder bird blanket blender blind blinds boat boats bone book bookcase books
    booth bottle bottles bowl bowls box boxes branch bread brick bridge broccoli broom bucket bud buffet bug building
    buildings bun bunch burger bus buses butter butterfly cabinet cabin cable cage cake calf camel camera candle candy cane
    canoe canopy can car cardboard cards carpet carriage carrot carrots cars cart cartoon case cat cats cattle cauliflower
    cave ceiling celery cell chain chair chairs chandelier cheese cherry chest chicken chip chips chocolate christmas circle
    city clay cliff clock closet cloud cloudy coach coast cockpit coffee coin column computer cone container cookie cookies
    cooler corn corner cottage couch counter countertop court cover cows crab cradle crane crate cross crossing crust
    crystal cube cucumber cup cupboard cupcake cups curb curtain curtains cushion deck deer desk desktop dessert device
    diamond dining dinner dirt dish dishes dishwasher disk dog dogs doll dolphin donkey donut donuts door doors double
    doughnut dough dragon drawer drawers drum duck ducks dust eagle ear ears earth edge egg eggs electric elephant elephants
    elk engine entrance escalator eye eyes fabric fake fence fender ferry field fire fireplace fish flag flame flat flock
    floor flower flowers fog food football forest fork forklift fountain frame freezer fridge fries frisbee frog frosting
    fruit fruits fur furniture game garage garden gas gate gear giraffe giraffes glass globe goat goose grape grapes grass
    grassy gravel grill ground guitar gun handbag handle harness hawk hay headphones headboard heart helicopter hen herd
    highway hill hippo home honda hook horn horns horse horses hose hot hotdog hotel house hut hydrant ice icing instrument
    iron island jar jeep jet juice kangaroo kayak ketchup kettle key keyboard kiosk kitchen kite kites kitten knife knives
    knob koala ladder lake lamb lamp land laptop laptops lawn leaf leaves leather lemon leopard lettuce lid lights lime line
    lion liquid lizard llama log logo luggage machine magazine map marble market mat mattress meal meat melon menu metal
    meter metro microphone microwave milk mirror mitten monitor monkey moon motor motorbike motorcycle motorcycles mound
    mountain mouse mud muffin mug mushroom mustard napkin needle nest net newspaper night noodle notebook numbers oar ocean
    office oil onion orange oranges orchid ottoman oven owl ox pad page paint painting pan pancake panda panel paper
    parachute parakeet parasol parrot pasta pastry path pavement paw pea peach pear peel pen pencil penguin pepper pepperoni
    petal phone phones piano pickle pie pier pig pigeon pillow pillows pipe pizza pizzas plane planes plank plant plants
    plastic plate plates platform plow plug pocket pole pond pony pool poodle porch post poster pot potato pots pottery
    printer puddle pump pumpkin puppy rabbit race rack racket racquet radiator radio rail railing railroad rain ram ramp
    razor refrigerator remote reptile restaurant rhino rice river road rock rocks rod roll roof room rope rose row rubber
    rug ruler rusty saddle sail salad salmon salt sand sandwich sandwiches sauce saucer sausage scale school scissors
    scooter screen sculpture sea seal seat seats seaweed sedan seed shade shadow shark sheep sheet shelf shell shelves ship
    ships shop shore shower shrimp shrub sidewalk sign signal signs silverware sink skateboard skiing skillet skin sky
    skyscraper slab sled slice slices slope snack snail snake snow snowboard soap soccer soda sofa soil soup space speaker
    spider spinach spoon sports spot spotted sprinkle squash squirrel stadium stage stair stairs stairway star statue steak
    steam steel stem step stereo stick sticker stone stool store stove strap straw strawberry stream street string stroller
    stuff stuffed stump sugar sun surface surfboard sushi suv swan switch table tables tablet tail tape taxi tea teapot
    teddy teeth television tennis tent terrier texture ticket tiger tile tire tires tissue toast toaster toilet tomato
    tomatoes tongs tool toothbrush toothpick topping tower towel toy toys track tractor traffic trail trailer train trains
    trash tray tree trees triangle tricycle trolley trophy truck trucks trunk tub tube turkey turtle tusk tv van vase vases
    vegetable vegetables vegetation vehicle video view vine wagon waist walkway wallet wardrobe washer water waterfall
    watermelon wave waves web wheel wheelchair wheels whip windmill window windows windshield wine wing wings wolf wood
    wooden wool yard yarn yogurt zebra zebras zone zoo bannister bedclothes bulletin clothe conveyer crt cross dishwasher
    drier embroidered fluffy doodle graffiti grandstand hovel itap jpeg corrupted minibike moss origami photograph pixelated
    plaything playingfield potted pottedplant diningtable plushie receiver rendering rendition resolution runway sconce
    signboard solid streetlight structural swivel system tattoo terrain textile trade tvmonitor waterdrops weird windowpane
    answer anything count eight expression fewer following frames instruction length nine question result seven shape shapes
    ten color colours crescent oval hexagon pentagon polygon star stars circle circles squares diamonds hearts crosses rings
    triangles ad adding alarm alembic alga altar altarpiece amphitheater andiron antenna appears aquarium aqueduct
    artificial ashcan ashtray baggage bandstand baptismal barbecue barbed barrier baseboard beacon beam bidet billboard
    blackboard blast bleachers boiler bonfire booklet bounce breakdancer briefcase brochure bulb bulbs bulldozer bullring
    butane calculator calendar candelabrum candlestick canister cannon canvas canyon carapace caravan carousel carport
    carrier cash casserole catwalk cd cds cellular centerpiece central chaise chalk check chess chimney chopping clipboard
    club coffin concrete conditioner confessional console control controls coop crevasse cue cutlery cylinder dam dartboard
    dashboard decoration dental detector diploma dishrag dispenser document dollhouse dome doorframe dryer dumbbell
    dumbbells dummy dune dvd dvds easel eaves eiderdown elevator embankment entry envelopes equipment exactly excavator
    exhibitor extinguisher extractor eyeglasses fairground faucet ferris figurine file filer fireplug floe flop fluorescent
    folders font footbridge footpath forecourt formation frying funfair funnel furnace garland gazebo glacier goal golf
    grand grating gravestone gravy greenhouse grille grinder gutter gym hairbrush hairdresser hammer hammock hangers hard
    headstones heater henhouse hockey hole hollow hotplate iceberg industry inflatable jack junk kennel lab labyrinth ladle
    landfill leash lectern lock locker lockers loudspeaker lounge manhole mast materials mechanical merchandise merged
    mezzanine mill mobile model monument motorboat mousepad music niche notepad notice obelisk organ organizer pack padlock
    palette pallet pallets pane pantry parterre partition patio patty pedestal pergola photocopier pigeonhole pins pitch
    plaque playground plaza podium portable postbox price processing processor projector pulpit punching railway rake
    recorder recycling reel register reservation revolving rifle rink rocket root rotisserie roulette roundabout rubbish
    rubble ruins safety saucepan sauna scaffolding score scoreboard scourer security service sewer sewing shanties shanty
    shaving shawl shelter shift shipyard shovel shrine shutter skeleton skimmer skip skirt skirting skylight slot slotted
    smoke socket spanners spectacles spice sponge spotlight spotlights spray stall stalls stapler station steering
    stethoscope streetcar structure support sword synthesizer tag tallboy tapestry target tarp teacup telephone telescope
    temple terminal test text thermometer throne times tins toll tomb tombstones tramway transformer trap treadmill trellis
    trench trestle tripod trough tumble tunnel tureen twice typewriter unit urinal utensils valley valve vault vending vent
    viaduct videocassette viewpoint vineyard violin volleyball watchtower weeds weighbridge weight wheelbarrow wire witness
    workbench"""
)
"""Words of English; forms with common endings count as well (`is_english` of text/sides)."""

OTHERS = _words(
    """der die das den dem des ein eine einen einem einer und oder nicht mit ohne auf unter neben vor hinter zwischen von
    vom zum zur beim ist sind im am an in aus bei der seite hinten vorne oben unten ganz rot rote roter rotes roten blau
    blaue blauer blaues grün grüne grüner grünes gelb gelbe schwarz schwarze schwarzer weiß weiße weißer weißes grau graue
    braun braune groß große großer großes klein kleine kleiner kleines mann frau kind hund katze auto baum haus tisch stuhl
    mensch person het een de van op naast achter voor onder boven tussen met zonder zijde kant rode blauwe groene gele
    zwarte witte grijze bruine grote kleine vrouw hond kat boom huis tafel stoel le la les un une des du de et ou avec sans
    sur sous dans devant derrière entre près à au aux est sont qui que côté rouge bleu bleue vert verte jaune noir noire
    blanc blanche gris grise grand grande petit petite homme femme enfant chien chat voiture arbre maison table chaise
    personne el los las una unos unas del al y con sin sobre bajo en delante detrás junto cerca es está son que lado rojo
    roja azul verde amarillo amarilla negro negra blanco blanca marrón grande pequeño pequeña hombre mujer niño niña perro
    gato coche árbol casa mesa silla persona il lo gli uno dello della degli delle nel nella di da con senza su sul sulla
    sotto sopra davanti dietro tra vicino è sono che lato rosso rossa blu giallo gialla nero nera bianco bianca grigio
    grigia piccolo piccola uomo donna bambino cane gatto macchina albero casa tavolo sedia o os as um uma do da dos das no
    na nos nas ao à e com sem em frente atrás perto vermelho vermelha preto preta branco branca cinza pequeno pequena homem
    mulher criança cachorro cão carro árvore mesa cadeira pessoa"""
)
"""Words of German, Dutch, French, Spanish, Italian and Portuguese."""
